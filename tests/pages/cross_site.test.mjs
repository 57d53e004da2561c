// Pages of others, which a person who is signed in has open in the same browser.

import assert from "node:assert/strict";
import { createServer } from "node:http";

import { DEVELOPER, SERVICE, api, journey, quiet, signedIn } from "./service.mjs";

// Every way in which a page may try to act in the person's name; what came of the last ones is in its title.
const HOSTILE = `<!doctype html>
<title>under way</title>
<iframe src="${SERVICE}/"></iframe>
<img src="${SERVICE}/auth/logout">
<script>
  const attempts = [
    ["/api/keys", { credentials: "include" }],
    ["/auth/me", { credentials: "include" }],
    ["/api/keys", { method: "POST", credentials: "include", body: '{"name":"theirs"}', headers: { "Content-Type": "application/json" } }],
    ["/api/keys", { method: "POST", credentials: "include", body: '{"name":"theirs"}', mode: "no-cors" }],
    ["/auth/token", { method: "POST", credentials: "include", body: new URLSearchParams({ grant_type: "session" }) }],
    ["/auth/logout", { method: "POST", credentials: "include", mode: "no-cors" }],
    ["/auth/sessions", { method: "POST", credentials: "include", mode: "no-cors", body: "_method=DELETE" }],
  ];
  const read = async ([path, options]) => {
    try {
      return (await (await fetch("${SERVICE}" + path, options)).text()).length;
    } catch {
      return 0;
    }
  };
  addEventListener("load", async () => {
    const lengths = await Promise.all(attempts.map(read));
    let framed = 0;
    try { framed = frames[0].document.body.innerText.length; } catch {}
    document.title = JSON.stringify([...lengths, framed]);
  });
</script>`;

// A page that sends a form as soon as it is looked at.
function form(path, fields) {
  const inputs = Object.entries(fields).map(([name, value]) => `<input name="${name}" value="${value}">`);
  return `<!doctype html><form method="post" action="${SERVICE}${path}">${inputs.join("")}</form>
    <script>document.forms[0].submit()</script>`;
}

const FORMS = {
  "/logout": form("/auth/logout", { csrf_token: "0".repeat(64) }),
  "/device": form("/device", { csrf_token: "", user_code: "BCDF-GHJK", action: "allow" }),
  "/cli": form("/login/cli", {
    csrf_token: "",
    redirect_uri: "http://127.0.0.1:9/callback",
    code_challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
    state: "s".repeat(32),
    action: "allow",
  }),
};

async function stranger() {
  const server = createServer((request, response) => {
    response.writeHead(200, { "Content-Type": "text/html" });
    response.end(FORMS[request.url] ?? HOSTILE);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const close = () => {
    server.closeAllConnections();
    return new Promise((closed) => server.close(closed));
  };
  return { port: server.address().port, close };
}

// Another site, which gets no cookies along; and another port of the same one, which does.
for (const [host, site, refusal] of [["127.0.0.1", "another site", 401], ["localhost", "the same site", 403]]) {
  journey(`a page of ${site} can neither act nor read in a person's name`, async (open) => {
    const page = await signedIn(open);
    const held = async () => [(await api(page, "GET", "/api/keys")).body.total, (await api(page, "GET", "/auth/sessions")).body.total];
    const before = await held();
    const strange = await stranger();
    try {
      const theirs = await page.context().newPage();
      await theirs.goto(`http://${host}:${strange.port}/`);
      await theirs.waitForFunction(() => document.title.startsWith("["));
      assert.deepEqual(JSON.parse(await theirs.title()), Array(8).fill(0), "nothing can be read");

      for (const path of Object.keys(FORMS)) {
        const answered = theirs.waitForResponse((response) => response.request().method() === "POST");
        await theirs.goto(`http://${host}:${strange.port}${path}`).catch(() => {}); // it leaves by itself
        assert.equal((await answered).status(), refusal, path);
        await theirs.waitForURL((url) => url.origin === SERVICE);
        assert.equal(await theirs.getByRole("button").count(), 0);
      }
    } finally {
      await strange.close();
    }
    await page.reload();
    await page.getByText(DEVELOPER).waitFor(); // still signed in
    assert.deepEqual(await held(), before, "no key was made, and nobody else was let in");
    quiet(page);
  });
}
