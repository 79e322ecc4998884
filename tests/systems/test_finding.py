"""What the doctor has found, in one line."""

from systems.finding import Finding


def test_a_command_is_said_once() -> None:
    def line(found: str) -> str:
        return str(
            Finding(name="x", works=False, found=found, needed_for="y", command="make minkowski")
        )

    assert line("none").count("make minkowski") == 1
    assert line("no module; make minkowski").count("make minkowski") == 1
