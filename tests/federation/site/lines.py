# SPDX-License-Identifier: Apache-2.0
"""A site's line to what a test puts below its HTTP client."""

from muster.federation.site.server_client import ServerClient
from muster.transport.http.client import HTTPTransport


def line_over(transport, name="a", address="http://hub", tls=None, **more):
    """A line whose requests go through a transport of httpx."""
    return ServerClient(HTTPTransport(address, name, tls, transport=transport), **more)
