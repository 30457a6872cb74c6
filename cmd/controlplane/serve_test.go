package main

import (
	"strings"
	"testing"
	"time"
)

func TestPrometheusServers(t *testing.T) {
	const secret = "SECRET"
	for _, test := range []struct{ given, want string }{
		{"http://prom:9090", "expected NAME=URL"},
		{"main", "expected NAME=URL"},
		{"Main=http://prom:9090", "a NAME such as main"},
		{"=http://prom:9090", "a NAME such as main"},
		{"http://user:" + secret + "@prom/?x=1", "a NAME such as main"},
		{"main=prom:9090", "--prometheus main=...: expected a URL"},
		{"main=", "expected a URL"},
		{"main=ftp://user:" + secret + "@prom", "expected a URL"},
		{"main=http://user:" + secret + "@", "expected a URL"},
		{"main=http://user:" + secret + "@prom:port", "expected a URL"},
		{"main=http://prom/?x=" + secret, "without a query"},
		{"main=http://a,main=http://b", "given twice"},
		{"user:" + secret + "@prom", "expected NAME=URL"},
	} {
		o := serveOptions{configDir: ".", xdsAddress: "127.0.0.1:1", adminAddress: "127.0.0.1:2", listenerAddress: "127.0.0.1", loadReportInterval: time.Second, prometheus: []string{test.given}}
		err := o.validate()
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v, want %q", test.given, err, test.want)
		}
	}
	// From the environment several come in one value.
	servers, err := prometheusServers([]string{"main=https://user:pass@mimir.infra/prometheus,near=http://[fd00::1]:9090", "third=http://c"})
	if err != nil || len(servers) != 3 || servers["near"].Host != "[fd00::1]:9090" || servers["main"].Path != "/prometheus" {
		t.Errorf("got %v, %v", servers, err)
	}
}
