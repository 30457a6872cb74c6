package admin

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	template "github.com/DataDog/datadog-agent/pkg/template/html"

	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/translate"
)

// refreshSeconds is how often a live page loads itself anew.
const refreshSeconds = 5

//go:embed pages
var files embed.FS

// pages holds one template per page, by name, each with the layout around it, once somebody has asked for a page.
// They call functions and no methods: the standard library's templates find methods by name, for which the linker
// keeps those of all types.
var pages = sync.OnceValue(parsePages)

func parsePages() map[string]*template.Template {
	layout := template.Must(template.New("layout.html").Funcs(template.FuncMap{
		"percent": percent, "decimal": decimal, "bar": bar, "over": over, "largest": largest, "ago": ago, "clock": clock,
		"lines": diffLines, "step": step, "bad": Bad, "subscribed": SubscribedTypes, "subscribes": TypeView.Subscribed, "describe": adapt.Decision.Describe, "served": ServedTypes, "short": short, "lower": lower, "upper": strings.ToUpper,
		"pretty": pretty, "quantity": quantity, "previous": func(n uint64) uint64 { return n - 1 },
		"at": pathOf, "page": func(d pageData, view any) pageData { d.View = view; return d },
	}).ParseFS(files, "pages/layout.html"))
	names, err := fs.Glob(files, "pages/*.html")
	if err != nil {
		panic(err)
	}
	all := map[string]*template.Template{}
	for _, name := range names {
		if base := strings.TrimSuffix(path.Base(name), ".html"); base != "layout" {
			all[base] = template.Must(template.Must(layout.Clone()).ParseFS(files, name))
		}
	}
	return all
}

// pageData is what every template is given.
type pageData struct {
	View    any
	Path    string // of the request, for the menu
	Menu    []menuItem
	JSON    string // shell command that gets the same as JSON
	Version string
	Follows string // the replica that computes the weights, if another one does
	Now     time.Time
	Refresh int    // seconds, 0: the page stays as it is
	Toggle  string // link that stops or resumes refreshing, "" where the page does neither
	Paused  bool   // a live page that the reader stopped
}

type menuItem struct {
	Path, Name string
	Current    bool
}

// render sends a page. A template that fails is answered for before anything was written.
func (s *server) render(w http.ResponseWriter, r *http.Request, code int, rt route, value any) {
	data := pageData{
		View: value, Path: r.URL.Path, Version: s.Version, Follows: s.Follows(), Now: s.Now(),
		JSON: "curl " + shellQuote("http://"+r.Host+r.URL.RequestURI()),
	}
	for _, item := range []menuItem{
		{Path: "/", Name: "Overview"}, {Path: "/services", Name: "Services"}, {Path: "/limits", Name: "Limits"}, {Path: "/proxies", Name: "Proxies"}, {Path: "/nacks", Name: "Refusals"},
		{Path: "/targets", Name: "Targets"}, {Path: "/snapshots", Name: "Snapshots"}, {Path: "/history", Name: "History"}, {Path: "/status", Name: "Status"},
	} {
		item.Current = item.Path == r.URL.Path || item.Path != "/" && strings.HasPrefix(r.URL.Path, item.Path+"/")
		data.Menu = append(data.Menu, item)
	}
	if rt.live {
		query := r.URL.Query()
		if query.Has("paused") {
			query.Del("paused")
			data.Paused = true
		} else {
			data.Refresh = refreshSeconds
			query.Set("paused", "")
		}
		data.Toggle = (&url.URL{Path: r.URL.Path, RawQuery: query.Encode()}).RequestURI()
	}
	var body bytes.Buffer
	if err := pages()[rt.page].ExecuteTemplate(&body, "layout.html", &data); err != nil {
		slog.Error("a page could not be made", "path", r.URL.Path, "error", err)
		writeJSON(w, http.StatusInternalServerError, ErrorView{Error: "this page could not be made; ask for it as JSON: " + data.JSON})
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(body.Bytes()) // the client may be gone
}

// assets are the style sheet and the icon.
func assets(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	kind := map[string]string{"style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}[name]
	body, err := files.ReadFile("pages/" + name)
	if kind == "" || err != nil {
		writeJSON(w, http.StatusNotFound, ErrorView{Error: "there is no such asset; there are /assets/style.css and /assets/icon.svg"})
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "max-age=300")
	_, _ = w.Write(body) // the client may be gone
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// lower is for class names.
func lower(v any) string { return strings.ToLower(fmt.Sprint(v)) }

// short is the beginning of a hash.
func short(hash string) string { return hash[:min(len(hash), 10)] }

// typesInOrder are the short names of the resource types.
func typesInOrder() []string {
	names := make([]string, len(translate.Types))
	for i, t := range translate.Types {
		names[i] = string(t)
	}
	return names
}

// SubscribedTypes are those that any of the nodes subscribed to, in order: what a table of them has columns for.
func SubscribedTypes(proxies []ProxyView) []string {
	return slices.DeleteFunc(typesInOrder(), func(t string) bool {
		return !slices.ContainsFunc(proxies, func(p ProxyView) bool { return p.Types[t].Subscribed() })
	})
}

// ServedTypes are those that any of the snapshots has resources of, in order.
func ServedTypes(snapshots []SnapshotView) []string {
	return slices.DeleteFunc(typesInOrder(), func(t string) bool {
		return !slices.ContainsFunc(snapshots, func(s SnapshotView) bool {
			return slices.ContainsFunc(s.Types, func(of SnapshotTypeView) bool { return of.Type == t })
		})
	})
}

// percent is a part of 1 as people read it: "31 %", "0.4 %".
func percent(v any) string {
	f, ok := float(v)
	switch {
	case !ok:
		return "–"
	case f != 0 && f < 0.0995:
		return strconv.FormatFloat(100*f, 'f', 1, 64) + " %"
	}
	return strconv.FormatFloat(100*f, 'f', 0, 64) + " %"
}

// decimal has the given number of decimals; "–" where there is no value.
func decimal(decimals int, v any) string {
	f, ok := float(v)
	if !ok {
		return "–"
	}
	return strconv.FormatFloat(f, 'f', decimals, 64)
}

func float(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case *float64:
		if v != nil {
			return *v, true
		}
	}
	return 0, false
}

// bar is the length, 0 to 100, of a bar that stands for a part of 1.
func bar(v any) string {
	f, _ := float(v)
	return strconv.FormatFloat(100*min(max(f, 0), 1), 'f', 1, 64)
}

// quantity has four significant digits: a reason's value may be of any size.
func quantity(v *float64) string { return strconv.FormatFloat(*v, 'g', 4, 64) }

// pretty is JSON indented for reading.
func pretty(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return string(raw)
	}
	return b.String()
}

// largest is the largest share, by which the bars of a Service are scaled: of many endpoints each has
// little.
func largest(endpoints []EndpointView) float64 {
	most := 0.0
	for _, e := range endpoints {
		most = max(most, e.Share)
	}
	return most
}

func over(share, most float64) float64 {
	if most == 0 {
		return 0
	}
	return share / most
}

// ago is how long before now t was, in one unit.
func ago(now time.Time, t *time.Time) string {
	if t == nil {
		return "never"
	}
	switch d := now.Sub(*t); {
	case d < time.Second:
		return "now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}

func clock(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// diffLine is a line of a unified diff with its class: "add", "remove", "hunk" or "".
type diffLine struct{ Class, Text string }

func diffLines(text string) []diffLine {
	var lines []diffLine
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		class := ""
		switch {
		case len(lines) < 2, strings.HasPrefix(line, "@@"): // the first two name what is compared
			class = "hunk"
		case strings.HasPrefix(line, "+"):
			class = "add"
		case strings.HasPrefix(line, "-"):
			class = "remove"
		}
		lines = append(lines, diffLine{class, line})
	}
	return lines
}

// step is the relative change of a weight: "+12 %", "joined" or "left".
func step(c WeightChangeView) string {
	switch {
	case c.Before == 0:
		return "joined"
	case c.After == 0:
		return "left"
	}
	return fmt.Sprintf("%+.0f %%", 100*(float64(c.After)/float64(c.Before)-1))
}
