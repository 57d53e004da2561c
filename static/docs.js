// Shows the document of this service with Swagger UI. Nothing of it is kept: a credential is gone with the page.

// Its dark colours hang on a class.
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", colour);
colour();

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "none",
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  // No other host is asked whether the document is valid.
  validatorUrl: null,
});
