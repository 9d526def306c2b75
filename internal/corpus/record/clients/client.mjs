// SPDX-License-Identifier: Apache-2.0
// Makes one request: client.mjs LIBRARY METHOD URL BODY-SIZE [NAME=VALUE...]

import http from "node:http";

const [library, method, url, size, ...pairs] = process.argv.slice(2);
const headers = Object.fromEntries(pairs.map((pair) => {
  const at = pair.indexOf("=");
  return [pair.slice(0, at), pair.slice(at + 1)];
}));
const body = "q".repeat(Number(size));

if (library === "fetch") {
  const response = await fetch(url, { method, headers, body: body || undefined });
  await response.text();
} else if (library === "http") {
  await new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers }, (response) => {
      response.resume().on("end", resolve);
    });
    request.on("error", reject);
    request.end(body);
  });
} else {
  throw new Error(`no library ${library}`);
}
