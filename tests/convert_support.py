"""Running convert_dataset.py in the tests' own process."""

from click.testing import CliRunner

from convert_dataset import main


def run(*arguments, status=0):
    """Run in this process, without workers; return (standard output, standard error)."""
    result = CliRunner().invoke(main, [*map(str, arguments), "--workers", "0"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


def refusal(*arguments):
    """The one line with which it refuses."""
    out, err = run(*arguments, status=2)
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert err.splitlines()[-1:] == lines
    return lines[0]
