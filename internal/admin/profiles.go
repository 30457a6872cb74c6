package admin

import (
	"net/http"
	"net/http/pprof"
)

// profiles are what the process has in memory, waits for and computes, as `go tool pprof` reads it: heap,
// allocs and goroutine of now, profile over ?seconds=. They name functions of the program, and nothing of
// the objects. (Package pprof puts them on http.DefaultServeMux too, which nobody serves.)
func profiles(mux *http.ServeMux) {
	for _, name := range []string{"heap", "allocs", "goroutine"} {
		mux.Handle("/debug/pprof/"+name, only(http.MethodGet, pprof.Handler(name)))
	}
	mux.Handle("/debug/pprof/profile", only(http.MethodGet, http.HandlerFunc(pprof.Profile)))
}
