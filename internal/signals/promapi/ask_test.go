package promapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		result := func(values ...string) string {
			var all []string
			for _, v := range values {
				all = append(all, fmt.Sprintf(`{"metric":{},"value":[1,%q]}`, v))
			}
			return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(all, ",") + `]}}`
		}
		answers := map[string]string{
			"sum(up)": result("42.5"), "none": result(), "two": result("1", "2"), "bad": "{" + secret,
			"scalar(up)": `{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}`,
		}
		b := start(t, Options{}, map[string]http.HandlerFunc{"main": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, answers[r.FormValue("query")])
		}})
		defer b.stop()
		if v, err := b.Ask(t.Context(), "main", "sum(up)"); v != 42.5 || err != nil {
			t.Errorf("%v, %v, want 42.5", v, err)
		}
		for query, want := range map[string]string{
			"none": "gives 0 results, expected one", "two": "gives 2 results", "bad": "main: the answer is not what",
			"scalar(up)": "does not give an instant vector",
		} {
			if _, err := b.Ask(t.Context(), "main", query); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v, want %q", query, err, want)
			}
		}
		if _, err := b.Ask(t.Context(), "other", "sum(up)"); err == nil || !strings.Contains(err.Error(), "no server named other") {
			t.Errorf("another server: %v", err)
		}
	})
}
