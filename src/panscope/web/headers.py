"""Headers of every answer: they keep the pages to themselves."""

# Scripts, styles and data come from this server alone, so a piece of text that looks like a script
# is inert even if a page forgot to escape it.
POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'"
POLICY_EMBEDDED = f"{POLICY}; form-action 'self'; frame-ancestors *"
HEADERS = {
    "content-security-policy": f"{POLICY}; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
