# Each target does all that it needs, on a bare Debian 12 with Python 3.11 too. ARGS passes options on: make demo ARGS="--seed 1"
BIN := .venv/bin
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := passive

.PHONY: setup demo test check format test-slow test-faults test-ui clean

setup:
	@infra/setup.sh

demo: setup
	@$(BIN)/magistral demo $(ARGS)

test: setup
	$(BIN)/pytest $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: setup
	$(BIN)/pytest -m slow --timeout 1800 $(ARGS)

# With every role struck in every state, which takes long; ARGS='-m "faults and not matrix"' for one strike a role.
test-faults: setup
	$(BIN)/pytest -m faults --timeout 1800 $(ARGS)

# Debian's own Chromium: pip has no browser.
test-ui: setup
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null; } || \
	  { echo "test-ui: as root run: apt-get install chromium chromium-driver fonts-dejavu-core" >&2; exit 2; }
	$(BIN)/pytest -m ui --timeout 600 $(ARGS)

# Ends the stack first, so that no process is left without its files. Runs, checkpoints and secrets in ~/.magistral stay.
clean:
	-@[ ! -x $(BIN)/magistral ] || $(BIN)/magistral stack down
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
