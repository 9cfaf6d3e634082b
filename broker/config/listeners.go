package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Listener is one address of listeners or advertised.listeners.
type Listener struct {
	Name string // PLAINTEXT
	Host string // without brackets; empty: every address
	Port int
}

// Address is the listener as net.Listen takes it.
func (l Listener) Address() string { return net.JoinHostPort(l.Host, strconv.Itoa(l.Port)) }

// Listeners are the addresses to listen on.
func (b *Broker) Listeners() ([]Listener, error) {
	list, err := parseListeners("listeners", b.get("listeners").list)
	if err == nil && len(list) == 0 {
		err = invalid("listeners", "listeners must name at least one address")
	}
	return list, err
}

// AdvertisedListeners are the addresses that clients are told; empty: none is
// set.
func (b *Broker) AdvertisedListeners() ([]Listener, error) {
	list, err := parseListeners("advertised.listeners", b.get("advertised.listeners").list)
	for _, l := range list {
		if ip := net.ParseIP(l.Host); l.Host == "" || ip != nil && ip.IsUnspecified() {
			return nil, invalid("advertised.listeners", "advertised.listeners: clients cannot connect to %q: name a host that they can reach", l.Address())
		}
	}
	return list, err
}

// parseListeners reads name://host:port elements.
func parseListeners(setting string, list []string) ([]Listener, error) {
	var out []Listener
	for _, e := range list {
		bad := func(format string, args ...any) ([]Listener, error) {
			return nil, invalid(setting, "%s: %s: %s", setting, shorten(e), fmt.Sprintf(format, args...))
		}
		name, address, ok := strings.Cut(e, "://")
		if !ok {
			return bad("write PLAINTEXT://host:port")
		}
		switch upper := strings.ToUpper(name); {
		case strings.HasPrefix(upper, "SASL") || strings.HasPrefix(upper, "SSL"):
			return bad("%s", noAuth)
		case name == "":
			return bad("write PLAINTEXT://host:port")
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return bad("write PLAINTEXT://host:port, an IPv6 address in brackets")
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return bad("%q is no port", port)
		}
		for _, o := range out {
			if o.Host == host && o.Port == int(n) && n != 0 {
				return bad("the address is given twice")
			}
		}
		out = append(out, Listener{name, host, int(n)})
	}
	return out, nil
}
