"""What happens around a run: safe loading, the deploy switch, provenance."""
from . import schemes  # noqa: F401
from .deploy_hook import DeploySwitchHook
from .ema_load_hook import EMALoadHook

__all__ = ['DeploySwitchHook', 'EMALoadHook']
