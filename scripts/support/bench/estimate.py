"""How long a plan takes, and as many rounds as a budget allows."""

from measure import RUN_SECONDS_EXTRA, SATURATION_RUNS, WARM_SECONDS, say
from options import FEW_ROUNDS_MAX, open_rounds

# Rounds beyond these tell nothing new.
ROUNDS_MAX = 15
SYSCALL_SECONDS_A_SIDE = 2.5
INSTRUCTIONS_SECONDS = 75
MEMORY_SECONDS = 180
# A side's start, and the look whether it pools.
START_SECONDS = 0.7
# Filling the pools for a cell.
WARM_CELL_SECONDS = 0.25


def fit(bench):
    """Sets the rounds by the budget, if there is one, and says what to expect."""
    plan = bench.plan
    if plan.budget_minutes:
        most = plan.budget_minutes * 60
        fitting = [n for n in range(1, ROUNDS_MAX + 1) if seconds(bench, n) <= most]
        plan.rounds = max(fitting, default=1)
    say(f"expected to take about {seconds(bench, plan.rounds) / 60:.0f} minutes: {plan.rounds} rounds")


def seconds(bench, rounds):
    plan = bench.plan
    few_rounds = min(rounds, FEW_ROUNDS_MAX)
    total = 0
    if "cost" in plan.sections:
        for cell in plan.cells:
            runs = cell.rounds(rounds) * (cell.seconds(plan.seconds) + RUN_SECONDS_EXTRA)
            total += sides(bench, cell.origin, cell.log) * (WARM_CELL_SECONDS + runs)
        groups = {(cell.origin, cell.log) for cell in plan.cells}
        total += sum(sides(bench, *group) * START_SECONDS for group in groups)
    for scheme in plan.origins:
        here = sides(bench, scheme, "off")
        if "latency" in plan.sections:
            runs = open_rounds(rounds) * len(plan.fractions)
            total += here * SATURATION_RUNS * (WARM_SECONDS + 0.3) + (here + 1) * runs * (plan.open_seconds + 0.2)
        if "connects" in plan.sections:
            total += here * few_rounds * (plan.seconds + 0.2)
        if "syscalls" in plan.sections:
            total += here * 2 * SYSCALL_SECONDS_A_SIDE
    total += INSTRUCTIONS_SECONDS if "instructions" in plan.sections else 0
    return total + (MEMORY_SECONDS if "memory" in plan.sections else 0)


def sides(bench, scheme, log):
    return sum(not peer.refusal(scheme, log == "file") for peer in bench.peers)
