// Package trust says who may speak to whom in a cluster: the authority that a cluster's secret makes, join tokens that hand
// out less than the secret, short-lived certificates that renew themselves, the roles in them, and the TLS configurations that
// check all of that. It is made of the standard library's cryptography and nothing else; it must never import another package
// of the module, read files on its own account other than certificates that it is pointed at, or log a secret. Its clock is
// given to it.
//
// Start reading at Authority, then Identity (a certificate and what is done with it), then Desk and Enroll (how a token becomes
// a certificate). DESIGN.md says why.
package trust
