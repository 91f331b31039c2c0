"""Run a program in whichever sandbox holds here and print what came of it. Standard library and the sandbox only: any user can run it."""

import json
import os

from magistral_core.sandbox import BackEnd, Language, Limits, Program, Sandbox, SandboxError
from magistral_core.sandbox.canary import check

report: dict[str, object] = {"uid": os.getuid()}
for back_end in BackEnd:
    try:
        check(back_end)
        report[back_end.value] = "holds"
    except SandboxError as error:
        report[back_end.value] = str(error)
sandbox = Sandbox(cxx=False)
program = Program.single(Language.PYTHON, "import os\nprint(6 * 7, os.getuid())")
with sandbox.open() as box:
    sandbox.compile(box, program)
    report |= {"chosen": sandbox.back_end.value, "printed": sandbox.run(box, program, Limits()).stdout.decode().split()}
print(json.dumps(report))
