"""The online RL loop: what is admitted, what is trained, and how weights travel back (Magistral, section 3)."""
