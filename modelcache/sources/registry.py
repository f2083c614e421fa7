"""Connect to a registry: its address, the login for it, and an HTTP client of its own."""

from __future__ import annotations

from modelcache.core.interfaces import Reporter
from modelcache.image.reference import DOCKER_HUB, Reference
from modelcache.sources.registry_api import RegistryRepository
from modelcache.sources.registry_auth import RegistryAuth
from modelcache.sources.registry_login import login_for
from modelcache.transfer.http_client import HttpClient, ca_bundle_of_environment
from modelcache.transfer.origins import is_loopback
from modelcache.transfer.retry import RetryPolicy
from modelcache.transfer.transport_errors import Advice

_ADVICE = Advice(
    "A registry may need a proxy in {proxy}, or NO_PROXY where it is inside.",
    without_tls="give --insecure (CACHE_MODELS_INSECURE)",
    with_tls="leave --insecure out, and name a registry of this machine by another name than localhost",
)
_DOCKER_HUB_HOST = "registry-1.docker.io"


def connect(
    image: Reference, policy: RetryPolicy, reporter: Reporter, jobs: int, *, insecure: bool = False
) -> RegistryRepository:
    """Return the repository of an image, with the login for it; no request yet.

    Plain http is spoken to a registry of this machine, and where that is wanted (`insecure`); elsewhere https.

    Raises:
        SettingError: the login cannot be read.

    """
    host = _DOCKER_HUB_HOST if image.registry == DOCKER_HUB else image.registry
    address = f"{'http' if insecure or is_loopback(f'http://{host}') else 'https'}://{host}"
    bundle = ca_bundle_of_environment()
    client = HttpClient(policy, reporter, jobs=jobs, ca_bundle=bundle, advice=_ADVICE)
    login = login_for(image.registry, image.repository)
    return RegistryRepository(image, RegistryAuth(image.registry, address, login, client), client, address)
