package kubetest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// resolvFile is the pods' /etc/resolv.conf, under Config.Root.
const resolvFile = "resolv.conf"

// domain is what names of Services end in.
const domain = "svc.cluster.local"

// serveNames answers the names of Services, and of the pods behind headless ones, until ctx ends. A Service with an address
// of its own is answered with its pods', since nothing here carries connections on.
func (n *Node) serveNames(ctx context.Context) error {
	resolv := fmt.Sprintf("nameserver %s\nsearch %s.%s %s\noptions ndots:5\n", nameServer, n.c.Namespace, domain, domain)
	if err := os.WriteFile(filepath.Join(n.c.Root, resolvFile), []byte(resolv), 0o644); err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", net.JoinHostPort(nameServer, "53"))
	if err != nil {
		return fmt.Errorf("serve names: %w", err)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buffer := make([]byte, 1500)
	for {
		size, from, err := conn.ReadFrom(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve names: %w", err)
		}
		var m dnsmessage.Message
		if m.Unpack(buffer[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		answer, err := n.answer(m)
		if err != nil {
			n.c.Log("names: %v", err)
			continue
		}
		if _, err := conn.WriteTo(answer, from); err != nil && ctx.Err() == nil {
			n.c.Log("names: %v", err)
		}
	}
}

func (n *Node) answer(m dnsmessage.Message) ([]byte, error) {
	q := m.Questions[0]
	addresses, known := n.lookup(strings.TrimSuffix(strings.ToLower(q.Name.String()), "."))
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true}
	m.Additionals = nil
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	if q.Type == dnsmessage.TypeA {
		for _, a := range addresses {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}, Body: &dnsmessage.AResource{A: [4]byte(net.ParseIP(a).To4())},
			})
		}
	}
	return m.Pack()
}

// lookup finds SERVICE.NAMESPACE.svc... and POD.SERVICE.NAMESPACE.svc...
func (n *Node) lookup(name string) (addresses []string, known bool) {
	words := strings.Split(strings.TrimSuffix(name, "."+domain), ".")
	if len(words) < 2 || !strings.HasSuffix(name, domain) || words[len(words)-1] != n.c.Namespace {
		return nil, false
	}
	service, pod := words[len(words)-2], ""
	if len(words) == 3 {
		pod = words[0]
	}
	slices, err := n.slices.EndpointSlices(n.c.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
	if err != nil || len(slices) == 0 {
		return nil, false
	}
	for _, s := range slices {
		for _, e := range s.Endpoints {
			if (pod == "" || e.Hostname != nil && *e.Hostname == pod) && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				addresses = append(addresses, e.Addresses...)
			}
		}
	}
	return addresses, pod == "" || len(addresses) > 0
}
