package demo

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestFreePortKeepsThePreferredOneIfItCan(t *testing.T) {
	localhost := netip.MustParseAddr("127.0.0.1")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(taken.Addr().String()).Port()
	got, err := FreePort(port, localhost)
	if err != nil || got == port || got == 0 {
		t.Errorf("port %d, %v; %d is taken", got, err, port)
	}
	_ = taken.Close()
	if got, err := FreePort(port, localhost); err != nil || got != port {
		t.Errorf("port %d, %v; want %d, which is free again", got, err, port)
	}
}

// TestFreePortsAreTheirs: a port that was given is not given again, to this process or another one, though nobody
// listens there yet; and the system gives it to no connection and no listener.
func TestFreePortsAreTheirs(t *testing.T) {
	const each = 200
	localhost := netip.MustParseAddr("127.0.0.1")
	take := func() (ports []string) {
		t.Helper()
		for range each {
			port, err := FreePort(0, localhost)
			if err != nil {
				t.Fatal(err)
			}
			ports = append(ports, fmt.Sprint(port))
		}
		return ports
	}
	if os.Getenv("EVENKEEL_TEST_PORTS") != "" { // the other process
		fmt.Println("ports:", strings.Join(take(), " "))
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the test has asked for its own
		return
	}
	other := exec.Command(os.Args[0], "-test.run=^TestFreePortsAreTheirs$")
	other.Env = append(os.Environ(), "EVENKEEL_TEST_PORTS=1")
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = other.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	theirs := strings.Fields(line)[1:]
	if len(theirs) != each {
		t.Fatalf("the other process says %q", line)
	}
	taken := map[string]bool{}
	for _, port := range append(theirs, take()...) {
		if taken[port] {
			t.Errorf("port %s was given twice", port)
		}
		taken[port] = true
	}
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	for range 300 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		if _, port, _ := net.SplitHostPort(l.Addr().String()); taken[port] {
			t.Errorf("the system gave port %s to somebody else", port)
		}
	}
}
