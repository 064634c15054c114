"""python -m tests.attack --inputs 10000"""

import argparse
import sys

from . import damage, generators, hostile, interruptions, resuming, words
from .reading import reading, several
from .runner import run

# Name: (the attack, its share of the inputs). Slow attacks have few.
ATTACKS = {
    "reading": (reading, 0.8),
    "several": (several, 0.06),
    "bytes": (damage.damaged_bytes, 0.06),
    "runs": (damage.altered_runs, 0.06),
    "evidences": (resuming.altered_evidence, 0.02),
    "resumed": (resuming.other_runs, 2 * len(resuming.CHANGES)),
    "structure": (damage.damaged_structure, 2 * len(damage.STRUCTURE)),
    "commands": (words.command_lines, len(words.LINES)),
    "fits": (hostile.hostile_fits, len(hostile.FITS)),
    "names": (hostile.hostile_names, len(hostile.NAMES)),
    "state": (generators.global_state, len(generators.CALLS)),
    "kills": (interruptions.kills, 0.01),
    "interrupts": (interruptions.interrupts, 0.02),
    "interrupted commands": (interruptions.interrupted_commands, 0.005),
    "threads": (interruptions.threads, 8),
    "disks": (interruptions.full_disks, 4),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description="Attack the library with odd inputs.")
    parser.add_argument("--inputs", type=int, default=1000, help="how many inputs, over all attacks (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed: repeat one input with --inputs 1")
    parser.add_argument("--only", choices=ATTACKS, action="append", help="one of the attacks")
    options = parser.parse_args()

    def seeds(share: float) -> range:
        count = options.inputs if options.only else share if share > 1 else round(share * options.inputs)
        return range(options.seed, options.seed + int(count))

    chosen = options.only or list(ATTACKS)
    summary = run(((name, ATTACKS[name][0], seeds(ATTACKS[name][1])) for name in chosen), progress=True)
    print(summary)
    return 1 if summary.defects else 0


if __name__ == "__main__":
    sys.exit(main())
