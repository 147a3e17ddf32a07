"""Change one expression of a module, and see that a test fails.

First, all tests say which lines they run::

    pip install cosmic-ray pytest-cov
    pytest -n 2 --cov=skpspc --cov-branch --cov-context=test --junitxml=tests.xml

Then, from the root of the repository with all changes committed::

    python -m tests.mutation --coverage .coverage --times tests.xml --count 300 --seed 0

draws mutants of the modules in ``PACKAGES``. A mutant replaces a comparison, an operator, a number,
a constant True or False, a condition, a decorator or a loop. In a clone of the repository, the
fastest tests that run the changed lines are called until one fails, for ``SECONDS`` at most.
Coverage does not see the lines of compiled kernels: there, tests that run ``CALLERS`` are called. A
mutant that no test notices survives. At the end, the tests that failed are called once more without
a mutant, and have to pass.

One line per mutant is added to ``--out`` (JSON), with the change as a diff. The run continues where
a file of the same name ends, and prints the mutants killed by module.
"""

import argparse
import collections
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import coverage
import numpy as np
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

PACKAGES = ("posterior", "support", "sampling", "denoisers")
CALLERS = {  # of compiled kernels
    "posterior/_box_kernels.py": "posterior/_box_numba.py",
    "posterior/_masks_kernels.py": "posterior/_masks_numba.py",
    "posterior/_math_numba.py": "posterior/_box_numba.py",
    "posterior/_cells_numba.py": "posterior/cells.py",
    "posterior/_tree_numba.py": "posterior/location_trees.py",
}
SKIPPED_OPERATORS = ("VariableInserter", "VariableReplacer")  # they need a list of names
# Assignments to names with "bytes", calls of `rows_that_fit` and the like, functions of sizes.
MEMORY = re.compile(r"\w*bytes\b[^(=]*=|(rows_that_fit|block_sizes|fits)\(|def \w*bytes\(")
MEMORY_NODES = ("expr_stmt", "atom_expr", "power", "funcdef")
SECONDS = 120  # of tests for one mutant, by the times of the run with coverage, which are long


def sites(code):
    """Return the places to change: lists of operators with their occurrences, by place and kind.

    A place is (first line, column, last line). What changes no answer is left out.
    """
    nodes = [(node, not _changes_nothing(node)) for node in ast_nodes(get_ast(code))]
    found = collections.defaultdict(list)
    for name in sorted(operator_names()):
        kind = name.rpartition("/")[2].partition("_")[0]
        if kind in SKIPPED_OPERATORS:
            continue
        operator, occurrence = get_operator(name)(), 0
        for node, counts in nodes:
            for (first, column), (last, _) in operator.mutation_positions(node):
                if counts:
                    found[first, column, last, kind].append((name, occurrence))
                occurrence += 1
    return found


def _changes_nothing(node):
    """Return True for what changes no answer.

    This is ``@overload``, parts of annotations, the argument strict of zip, and estimates of
    memory, which change the number of images in a block.
    """
    if node.type == "decorator" and node.get_code().strip() == "@overload":
        return True
    while node.parent is not None:
        parent = node.parent
        if parent.type in ("tfpdef", "annassign"):
            return True
        if parent.type == "funcdef" and node is parent.annotation:
            return True
        if parent.type == "argument" and parent.get_code().strip().startswith("strict="):
            return True
        if parent.type in MEMORY_NODES and MEMORY.match(parent.get_code(include_prefix=False)):
            return True
        node = parent
    return False


class Tests:
    """Tests by the lines that they run, with their times."""

    def __init__(self, data_file, times_file):
        self._data = coverage.CoverageData(data_file)
        self._data.read()
        self._paths = {path.rpartition("/skpspc/")[2]: path for path in self._data.measured_files()}
        self._seconds = {}
        for case in ElementTree.parse(times_file).iter("testcase"):
            path = case.get("classname").replace(".", "/")
            self._seconds[f"{path}.py::{case.get('name')}"] = float(case.get("time"))

    def of(self, module, first, last):
        """Return the fastest tests that run one of the lines, for SECONDS at most."""
        runs = CALLERS.get(module, module)
        contexts = self._data.contexts_by_lineno(self._paths.get(runs, ""))
        lines = range(first, last + 1) if runs == module else ()
        found = {test for line in lines for test in contexts.get(line, ()) if test}
        if not found:  # compiled lines, and lines that run at import
            found = {test for tests in contexts.values() for test in tests if test}
        tests = {context.partition("|")[0] for context in found} & set(self._seconds)
        ordered, total = [], 0.0
        for test in sorted(tests, key=lambda test: (self._seconds[test], test)):
            total += self._seconds[test]
            if total > SECONDS and ordered:
                break
            ordered.append(test)
        return ordered


def failing(clone, tests):
    """Return the first test that fails, "timeout", or None."""
    arguments = clone / "selection.txt"
    arguments.write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-xq", "-n0", "--tb=no", "-rfE", f"@{arguments}"]
    environment = {**os.environ, "CI": "1", "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    try:
        result = subprocess.run(
            command, cwd=clone, env=environment, capture_output=True, text=True, timeout=3 * SECONDS
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    if result.returncode == 0:
        return None
    lines = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0].partition(" ")[2] if lines else "error"


def drawn_mutants(code, count, seed):
    """Return ``count`` random mutants: module, place, and an operator with its occurrence."""
    every = [(module, *site) for module in code for site in sites(code[module]).items()]
    rng = np.random.default_rng(seed)
    shuffled = (every[i] for i in rng.permutation(len(every)))
    return [
        (module, place, mutants[rng.integers(len(mutants))]) for module, place, mutants in shuffled
    ][:count]


def tried(clone, code, mutant, tests):
    """Return the record of a mutant: module, line, change, and the test that failed or None."""
    module, (first, _, last, _), (name, occurrence) = mutant
    path, original = clone / "skpspc" / module, code[module]
    changed = mutate_code(original, get_operator(name)(), occurrence)
    selection = tests.of(module, first, last)
    path.write_text(changed)
    killer = failing(clone, selection) if selection else None
    path.write_text(original)
    lines = difflib.ndiff(original.splitlines(), changed.splitlines())
    change = [line for line in lines if line.startswith(("-", "+"))]
    return {"module": module, "line": first, "change": change, "killer": killer}


def report(records):
    """Print the mutants killed by module, by package and in all."""
    counts: dict = collections.defaultdict(lambda: [0, 0])
    for record in records:
        for key in (record["module"], record["module"].partition("/")[0], "all"):
            counts[key][0] += record["killer"] is not None
            counts[key][1] += 1
    for key, (killed, total) in sorted(counts.items()):
        print(f"{key:40} {killed:4} of {total:4} killed")


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coverage", default=".coverage", help="data with a context for each test")
    parser.add_argument("--times", default="tests.xml", help="report of pytest --junitxml")
    parser.add_argument("--only", default="", help="part of the paths of the modules to change")
    parser.add_argument("--count", type=int, default=300, help="mutants in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    options = parser.parse_args()
    root, tests = Path.cwd(), Tests(options.coverage, options.times)
    paths = sorted(path for name in PACKAGES for path in (root / "skpspc" / name).rglob("*.py"))
    code = {
        path.relative_to(root / "skpspc").as_posix(): path.read_text()
        for path in paths
        if options.only in path.as_posix()
    }
    drawn = drawn_mutants(code, options.count, options.seed)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    records = [json.loads(line) for line in lines]
    with tempfile.TemporaryDirectory() as folder, options.out.open("a") as out:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", root, clone], check=True)
        for mutant in drawn[len(records) :]:
            records.append(tried(clone, code, mutant, tests))
            print(json.dumps(records[-1]), file=out, flush=True)
        killers = {record["killer"] for record in records} - {None, "timeout", "error"}
        if killers and (broken := failing(clone, sorted(killers))) is not None:
            sys.exit(f"without a mutant, {broken} fails, too")
    report(records)


if __name__ == "__main__":
    main()
