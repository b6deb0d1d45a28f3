"""The proxies that the environment names: http_proxy, https_proxy, all_proxy, no_proxy."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

from yarl import URL

from mirror.errors import ConfigError


class EnvironmentProxies:
    """Says which proxy a request takes. Raises `ConfigError` if the environment names one that is no URL.

    Read here rather than by aiohttp (`trust_env`), which would also send the passwords of ~/.netrc.
    """

    def __init__(self) -> None:
        self._proxies: dict[str, URL] = {}
        for scheme, text in getproxies().items():
            if scheme not in ("http", "https", "all") or not text:
                continue
            try:
                url = URL(text if "://" in text else f"http://{text}")
            except ValueError:
                url = URL()
            if url.scheme not in ("http", "https") or not url.raw_host:
                raise ConfigError(f"{scheme}_proxy in the environment is no http or https URL")
            self._proxies[scheme] = url

    @property
    def endpoints(self) -> frozenset[tuple[str, int]]:
        """Hosts and ports of all proxies."""
        return frozenset((url.raw_host or "", url.port or 0) for url in self._proxies.values())

    def for_url(self, url: URL) -> URL | None:
        """The proxy for a request to `url`, None to go straight."""
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        if proxy is None or proxy_bypass(f"{url.host}:{url.port}") or proxy_bypass(url.host or ""):
            return None
        return proxy
