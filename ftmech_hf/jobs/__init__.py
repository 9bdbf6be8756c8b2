"""Jobs: settings in, one run folder out. All have one contract: ``f(config, task, ..., progress) -> RunDir``."""

JOBS = {
    "pretrain": "ftmech_hf.jobs.training_card",
    "finetune": "ftmech_hf.jobs.training_card",
    "reverse_finetune": "ftmech_hf.jobs.training_card",
    "dataset": "ftmech_hf.jobs.make_dataset",
    "stories": "ftmech_hf.jobs.make_stories",
    "prune": "ftmech_hf.jobs.pruning",
    "probe": "ftmech_hf.jobs.probing",
    "attention": "ftmech_hf.jobs.attention",
    "truth": "ftmech_hf.jobs.exact_distribution",
    "interpolate": "ftmech_hf.jobs.interpolation",
    "write_stories": "ftmech_hf.jobs.write_stories",
    "grounded_answers": "ftmech_hf.jobs.grounded_answers",
}
"""Kind of a run that can be published -> the module that says what of it is, in its ``PUBLICATIONS``."""
