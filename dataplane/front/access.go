package front

import (
	"fmt"
	"net"
	"net/http"
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
}

func (a *Access) check(r *http.Request) error {
	host := hostname(r.Host)
	if (a.Loopback || len(a.Hosts) > 0) && !(a.Loopback && isLoopback(host)) && !containsFold(a.Hosts, host) {
		return fmt.Errorf("Host: %.128q is not admitted", r.Host)
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return nil
	}
	if len(origins) > 1 || !a.admitsOrigin(origins[0], r.Host) {
		return fmt.Errorf("Origin: %.128q is not admitted", origins[0])
	}
	return nil
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
