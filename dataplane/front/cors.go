package front

import "net/http"

// What a page of an admitted origin may send and read across origins.
var (
	corsMethods = []string{"GET, POST, DELETE"}
	corsHeaders = []string{"Content-Type, Accept, Authorization, Mcp-Session-Id, Mcp-Protocol-Version, Last-Event-ID"}
	corsExposed = []string{"Mcp-Session-Id, Mcp-Protocol-Version, Retry-After"}
	corsMaxAge  = []string{"7200"} // the longest that any browser heeds, in seconds
	varyOrigin  = []string{"Origin"}
)

// allowOrigin lets the page that sent the request read the answer.
func allowOrigin(h http.Header, origin string) {
	h["Vary"] = varyOrigin
	h["Access-Control-Allow-Origin"] = []string{origin}
	h["Access-Control-Expose-Headers"] = corsExposed
}

// preflight answers a browser that asks what it may send.
func preflight(w http.ResponseWriter) {
	h := w.Header()
	h["Access-Control-Allow-Methods"] = corsMethods
	h["Access-Control-Allow-Headers"] = corsHeaders
	h["Access-Control-Max-Age"] = corsMaxAge
	w.WriteHeader(http.StatusNoContent)
}
