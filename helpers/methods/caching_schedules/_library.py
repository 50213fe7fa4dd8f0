"""What diffusers does not promise to keep, in one place, and how hooks are put on and taken off beside those of other libraries."""

from __future__ import annotations

from typing import Any

from torch import nn

try:  # everything here that diffusers does not promise to keep: one place, so that a move is seen at once
    from diffusers.hooks import HookRegistry, ModelHook
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
    from diffusers.hooks.hooks import BaseState, CacheContext, StateManager  # noqa: F401 (for `_runs`)
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "caching_schedules needs the hook classes of diffusers (written for 0.42.1): diffusers.hooks.{HookRegistry, "
        "ModelHook}, diffusers.hooks._helpers.{TransformerBlockMetadata, TransformerBlockRegistry} and diffusers.hooks."
        f"hooks.{{BaseState, CacheContext, StateManager}}. This diffusers has moved one of them: {error}"
    ) from error


def _bare(block: nn.Module) -> nn.Module:
    """The block itself, where `torch.compile(block)` stands in the list."""
    return getattr(block, "_orig_mod", block)


def _metadata(block: nn.Module) -> TransformerBlockMetadata | None:
    try:
        return TransformerBlockRegistry.get(type(block))
    except ValueError:
        return None


def _hang(module: nn.Module, hook: ModelHook, name: str) -> None:
    """Put a hook on, below accelerate's wrapper of `forward` where there is one: pipelines take that off, with all above it, when a run ends."""
    outer, below = module.forward, vars(module).get("_old_forward")
    if below is not None:
        module.forward = below
    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, name)
    hook.outermost = module.forward
    if below is not None:
        module._old_forward, module.forward = module.forward, outer


def _unhang(module: nn.Module, name: str, cache: Any) -> None:
    """Take a hook of this cache off, also from below another library that has wrapped `forward` (accelerate's offload): its wrapper stays where it is."""
    registry = getattr(module, "_diffusers_hook", None)
    hook = registry.get_hook(name) if registry is not None else None
    if hook is None or hook.cache is not cache:
        return
    newest, outer = registry._hook_order[-1] == name, module.forward
    registry.remove_hook(name, recurse=False)
    if newest and outer is not hook.outermost:
        if vars(module).get("_old_forward") is hook.outermost:
            module._old_forward = module.forward
        else:  # what the wrapper calls does from now on only what was there before
            hook.fn_ref.forward, hook.fn_ref.post_forward = module.forward, lambda module, output: output
        module.forward = outer


def _other_caches(transformer: nn.Module) -> set[str]:
    """Names of the classes of diffusers' own cache hooks on a model, also of those that `apply_..._cache` put there."""
    hooks = (hook for module in transformer.modules() if hasattr(module, "_diffusers_hook") for hook in module._diffusers_hook.hooks.values())
    return {type(hook).__name__ for hook in hooks if type(hook).__module__.rpartition(".")[2] in _CACHES}


_CACHES = ("faster_cache", "first_block_cache", "mag_cache", "pyramid_attention_broadcast", "sea_cache", "taylorseer_cache", "text_kv_cache")
