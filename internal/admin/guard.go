package admin

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
)

// ActionHeader must be "1" on requests that change something. A page of another origin cannot set it
// without a CORS preflight, and none is ever granted.
const ActionHeader = "X-Evenkeel-Action"

// guard refuses requests for other hosts, sets the headers that keep a browser from doing anything but
// show the page, and turns a panic into an answer.
func guard(allowed []string, next http.Handler) http.Handler {
	names := map[string]bool{"localhost": true}
	for _, h := range allowed {
		names[strings.ToLower(h)] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				slog.Error("admin request failed", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				writeJSON(w, http.StatusInternalServerError, ErrorView{
					Error: "this request failed inside the control plane, which goes on; its log has the details",
				})
			}
		}()
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !hostAllowed(r.Host, names) {
			writeJSON(w, http.StatusMisdirectedRequest, ErrorView{
				Error: "this port answers to its IP addresses and to localhost only; to reach it by another name, start the control plane with --admin-allowed-host NAME",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostAllowed reports whether a Host header may be answered. A rebinding attack needs a name, so IP
// addresses are safe; kubelet and Prometheus use them.
func hostAllowed(hostport string, names map[string]bool) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return names[strings.ToLower(strings.TrimSuffix(host, "."))]
}

// only lets one method through. GET stands for HEAD too.
func only(method string, next http.Handler) http.Handler {
	allow := method
	if method == http.MethodGet {
		allow = "GET, HEAD"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == method || method == http.MethodGet && r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Allow", allow)
		writeJSON(w, http.StatusMethodNotAllowed, ErrorView{Error: r.URL.Path + " takes " + allow + " only"})
	})
}
