"""The engine's servers before anything is loaded: a typing error in an address is not to be found after hours of another stage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from rlcore.recipe.schema import Recipe
from rlcore.rollout.server_client import HEALTH_S
from rlcore.rollout.vllm_server import addresses


def server_addresses(recipe: Recipe) -> list[str]:
    """Of servers that the run does not start itself. Raises `EngineError` where there is none, or one that is no address."""
    section = recipe.engine
    if section.use != "vllm_server" or section.parameters.get("start"):
        return []
    return addresses(section.parameters.get("servers", ()))


def silent_servers(urls: list[str]) -> list[str]:
    """Those that do not answer now, each with the reason."""
    if not urls:
        return []
    with ThreadPoolExecutor(min(32, len(urls))) as threads:
        reasons = list(threads.map(_silence, urls))
    return [f"{url} ({reason})" for url, reason in zip(urls, reasons, strict=True) if reason]


def _silence(url: str) -> str:
    try:
        status = httpx.get(f"{url}/health", timeout=HEALTH_S).status_code
    except httpx.HTTPError as error:
        return f"{type(error).__name__} {error}".strip()
    return "" if status == 200 else f"status {status}"
