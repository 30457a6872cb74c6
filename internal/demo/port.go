package demo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// FreePort returns the preferred port if all the addresses have it free, else one that nobody gets before this
// process ends, but who asks for it by its number: it is none of those that the system gives to connections and
// to listeners at port 0, and no other call of FreePort, here or in another process, returns it.
func FreePort(preferred uint16, addresses ...netip.Addr) (uint16, error) {
	if preferred != 0 && allFree(preferred, addresses) {
		return preferred, nil
	}
	const attempts = 200
	first, last := reservable()
	for range attempts {
		if port := uint16(first + rand.IntN(last-first+1)); allFree(port, addresses) && reserve(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("free port: of %d from %d to %d none was free at all of %v", attempts, first, last, addresses)
}

// reservable are the ports to choose from: away from those that the system gives itself.
func reservable() (first, last int) {
	const lowest = 24000 // below are those that programs are known by, and those that benchmarks take by number
	from, to := 32768, 60999
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if _, err := fmt.Sscan(string(text), &from, &to); err != nil {
			from, to = 32768, 60999
		}
	}
	if above := 65535 - to; above > from-lowest {
		return to + 1, 65535
	}
	return lowest, max(from, 32768) - 1 // where the system leaves nothing, as much as it usually does
}

// reserved are sockets that stand for the ports that this process has got.
var reserved struct {
	sync.Mutex
	sockets []net.PacketConn
}

// reserve takes a port for this process, until it ends. The mark is the UDP socket of the same number, which the
// system gives once and takes back however the process ends; what gets the port listens on TCP.
func reserve(port uint16) bool {
	socket, err := net.ListenPacket("udp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return false
	}
	reserved.Lock()
	defer reserved.Unlock()
	reserved.sockets = append(reserved.sockets, socket)
	return true
}

// allFree says whether connections are refused. To listen and close again would tell as well, but a child that is
// being started meanwhile has a copy of the socket for a moment: the port would be free, and then not.
func allFree(port uint16, addresses []netip.Addr) bool {
	for _, address := range addresses {
		conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(address, port).String(), 100*time.Millisecond)
		if err == nil {
			_ = conn.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
	}
	return true
}
