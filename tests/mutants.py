"""A random sample of mutants of the model and the methods, by mutmut: `make mutants`.

[tool.mutmut] in pyproject.toml names the mutated files and the tests. mutmut runs the tests that reach a mutant until
one fails; mutants that no test reaches are not in the sample. A second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from mutmut import __main__ as mutmut
from mutmut.state import state
from mutmut.utils.format_utils import mangled_name_from_mutant_name

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--count", type=int, default=60)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
collect = mutmut.collect_source_file_mutation_data
Mutant = tuple[Any, str, Any]


def is_reached(mutant: Mutant) -> bool:
    return bool(state().tests_by_mangled_function_name.get(mangled_name_from_mutant_name(mutant[1])))


def sample(**options: Any) -> tuple[list[Mutant], Any]:
    """What mutmut collects, with some of the mutants, and with the quickest tests first."""
    mutants, data = collect(**options)
    seconds = state().duration_by_test
    for name, tests in state().tests_by_mangled_function_name.items():
        state().tests_by_mangled_function_name[name] = sorted(tests, key=seconds.__getitem__)
    reached = sorted(filter(is_reached, mutants), key=lambda mutant: mutant[1])
    chosen = random.Random(arguments.seed).sample(reached, min(arguments.count, len(reached)))
    print(f"{len(chosen)} of {len(reached)} mutants that tests reach, of {len(mutants)}")
    return chosen, data


mutmut.collect_source_file_mutation_data = sample
mutmut.run_forced_fail_test = lambda runner: None  # importing the package calls its functions, so pytest cannot start
mutmut.cli(["run", "--max-children", "1"])
