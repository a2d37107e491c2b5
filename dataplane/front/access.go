package front

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Access says which Host and Origin header values are admitted. It keeps a web
// page from reaching a worker through its visitor's browser, by a name that
// resolves to the worker's address or by a request across origins.
type Access struct {
	// Loopback is whether the listener is on a loopback address: then only
	// loopback names are admitted beside the listed ones.
	Loopback bool
	// Hosts are admitted host names, without port. On a listener that is not on
	// loopback, an empty list admits all.
	Hosts []string
	// Origins are admitted origins, as browsers send them. A request that has an
	// origin is also admitted when that is the host it is sent to.
	Origins []string
	// Proxies are the networks of proxies whose word counts on which host a
	// request was sent to (X-Forwarded-Host). From anybody else it is ignored.
	Proxies []netip.Prefix
}

// check returns why the request is not admitted, and the origin of a browser's
// request that is.
func (a *Access) check(r *http.Request) (origin string, err error) {
	sentTo := a.host(r)
	host := hostname(sentTo)
	if (a.Loopback || len(a.Hosts) > 0) && !(a.Loopback && isLoopback(host)) && !containsFold(a.Hosts, host) {
		return "", fmt.Errorf("header Host: %.128q is not admitted", sentTo)
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return "", nil
	}
	if len(origins) > 1 || !a.admitsOrigin(origins[0], sentTo) {
		return "", fmt.Errorf("header Origin: %.128q is not admitted", origins[0])
	}
	return origins[0], nil
}

// host returns the host that the client sent the request to.
func (a *Access) host(r *http.Request) string {
	forwarded := r.Header["X-Forwarded-Host"]
	if len(forwarded) != 1 || len(a.Proxies) == 0 {
		return r.Host
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.Host
	}
	from := peer.Addr().Unmap()
	if !slices.ContainsFunc(a.Proxies, func(p netip.Prefix) bool { return p.Contains(from) }) {
		return r.Host
	}
	first, _, _ := strings.Cut(forwarded[0], ",") // the outermost proxy's word, if there are several
	return strings.TrimSpace(first)
}

func (a *Access) admitsOrigin(origin, host string) bool {
	if containsFold(a.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return false
	}
	if a.Loopback {
		return isLoopback(hostname(u.Host))
	}
	return strings.EqualFold(u.Host, host)
}

func containsFold(list []string, s string) bool {
	return slices.ContainsFunc(list, func(one string) bool { return strings.EqualFold(one, s) })
}

// hostname returns the name or address in a Host value, without port and brackets.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
