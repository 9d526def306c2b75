# SPDX-License-Identifier: Apache-2.0
"""Makes one request: client.py LIBRARY METHOD URL BODY-SIZE [NAME=VALUE...]"""

import http.client
import sys
import urllib.parse
import urllib.request

library, method, url, size, *pairs = sys.argv[1:]
headers = dict(pair.split("=", 1) for pair in pairs)
body = b"q" * int(size) or None

if library == "urllib":
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    with urllib.request.urlopen(request) as response:
        response.read()
elif library == "http.client":
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request(method, parts.path, body=body, headers=headers)
    connection.getresponse().read()
elif library == "requests":
    import requests

    # A generator has no length, so the body is sent in chunks.
    data = iter([body]) if body else None
    requests.request(method, url, data=data, headers=headers).content
else:
    sys.exit(f"no library {library}")
