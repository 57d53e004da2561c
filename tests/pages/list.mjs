// Every page that somebody who is signed in can look at, by name.

export const OWN = {
  overview: "/",
  connect: "/connect",
  keys: "/keys",
  usage: "/usage",
  sessions: "/sessions",
  device: "/device",
};

export const ADMIN = {
  admin: "/admin",
  people: "/admin/users",
  person: "/admin/users/1",
  "all-usage": "/admin/usage",
  prices: "/admin/costs",
  price: "/admin/costs/*/us.anthropic.claude-opus-4-8",
  "new-price": "/admin/costs/new",
  import: "/admin/costs/import",
  streams: "/admin/streams",
  jobs: "/admin/jobs",
  audit: "/admin/audit",
  health: "/admin/health",
};
