"""The running system: what is started for a run, and the loop that drives it.

Its modules in the order in which a run goes through them, those that lead first:

    before it     inputs, model_folder, hub_model, kept_paths, rewards, rehearsal, preview, resume
    its plan      plan_text, memory_plan, memory, zero_memory, packing_memory
    the cluster   cluster, machine, auth_token, cluster_watch, cluster_shutdown, standstill
    its parts     system, placement, layout, node_checks, engines, remote, sleeping
    the loop      training, loop, parts, drawing, learning, scoring, reusing
    its accounts  budget, compute, clocks
    beside it     recorder, evaluations, measuring, best, parity_checks, parity
    going on      checkpoints, position, recovery, rescue
    what ends it  interruption, health, liveness, guards, deaths, deadlines, stack_traces
"""
