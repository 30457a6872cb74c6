package demo

import (
	"strings"
	"testing"
	"time"
)

func TestProcessStopsWhenAsked(t *testing.T) {
	p, err := StartProcess("child", t.TempDir(), nil, "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	p.Stop(time.Minute)
	select {
	case <-p.Done():
	default:
		t.Error("Stop returned before the child had ended")
	}
}

func TestProcessThatIgnoresTheSignalIsKilled(t *testing.T) {
	p, err := StartProcess("child", t.TempDir(), nil, "sh", "-c", `trap "" TERM; while :; do sleep 0.01; done`)
	if err != nil {
		t.Fatal(err)
	}
	p.Stop(10 * time.Millisecond)
	<-p.Done()
}

func TestProcessThatEndsByItselfTellsWhy(t *testing.T) {
	p, err := StartProcess("child", t.TempDir(), nil, "sh", "-c", `for i in $(seq 50); do echo "line $i"; done; echo "cannot bind" >&2; exit 3`)
	if err != nil {
		t.Fatal(err)
	}
	message := p.Failure().Error()
	for _, want := range []string{"child", "exit status 3", "line 50", "cannot bind", p.LogFile()} {
		if !strings.Contains(message, want) {
			t.Errorf("%q is missing in %q", want, message)
		}
	}
	if strings.Contains(message, "line 2\n") {
		t.Error("the whole output is in the error")
	}
}

func TestProcessThatCannotStart(t *testing.T) {
	if _, err := StartProcess("child", t.TempDir(), nil, "/nowhere/at-all"); err == nil || !strings.Contains(err.Error(), "child") {
		t.Errorf("error %v", err)
	}
}
