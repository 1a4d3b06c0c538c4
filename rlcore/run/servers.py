"""The engine's servers before anything is loaded: a typing error in an address is not to be found after hours of another stage."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx

from rlcore.recipe.schema import Recipe
from rlcore.rollout.server_client import Server, ServerError
from rlcore.rollout.server_settings import addresses


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
    # In a thread of its own: this one may have an event loop already, as in a notebook.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _silent(urls)).result()


async def _silent(urls: list[str]) -> list[str]:
    async with httpx.AsyncClient(timeout=None) as http:
        reasons = await asyncio.gather(*(_silence(Server(url, http)) for url in urls))
    return [f"{url} ({reason})" for url, reason in zip(urls, reasons, strict=True) if reason]


async def _silence(server: Server) -> str:
    try:
        return "" if await server.is_healthy() else server.silence
    except ServerError as error:  # another program
        return str(error)
