"""The package as such."""

import subprocess
import sys


def test_without_detectron2_one_sentence_says_what_to_do() -> None:
    code = "import sys; sys.modules['detectron2'] = None; import panet"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "panet needs detectron2" in last
    assert "make install" in last


def test_does_not_need_detectron2s_compiled_extension() -> None:
    code = (
        "import sys; sys.modules['detectron2._C'] = None;"
        "import panet, panet.engine, panet.model_zoo, panet.evaluation"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
