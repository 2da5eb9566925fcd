"""``python -m tests.fuzz.engine TARGET [FLAG OF LIBFUZZER…]``: one process of fuzzing, which never returns."""

import sys

import atheris

# What is imported here is rewritten so that it tells libFuzzer where it goes. Regular expressions are not:
# atheris has a hook for them, which fails on those for bytes (3.0.0). So the words of a target matter.
with atheris.instrument_imports(include=["relayd.wire"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]].check)
    atheris.Fuzz()
