"""Save, push and pull: models, adapters, datasets and analyses as ordinary repositories of the Hub."""

from ftmech_hf.downloads import pull
from ftmech_hf.hub.publish import HubConfig, PublishConfig, plan_push, publish, push_run
from ftmech_hf.hub.push import Pushed, Target
from ftmech_hf.hub.repo_folder import Origin, save

__all__ = [
    "HubConfig",
    "Origin",
    "PublishConfig",
    "Pushed",
    "Target",
    "plan_push",
    "publish",
    "pull",
    "push_run",
    "save",
]
