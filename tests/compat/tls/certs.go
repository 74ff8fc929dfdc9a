package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// issued is a certificate with its key.
type issued struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain []*x509.Certificate // what stands behind it in its file
}

// ask says what a certificate is to be; zero values are the usual ones.
type ask struct {
	cn       string
	serial   int64
	by       *issued // nil: by itself
	isCA     bool
	hosts    []string
	ips      []string
	usage    []x509.ExtKeyUsage
	from, to time.Duration // from now on
	key      crypto.Signer
}

var serials int64 = 100

func ecKey() crypto.Signer { return ecKeyOn(elliptic.P256()) }

func ecKeyOn(curve elliptic.Curve) crypto.Signer {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	fail(err)
	return key
}

func rsaKey() crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	fail(err)
	return key
}

func edKey() crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	fail(err)
	return key
}

func issue(a ask) *issued {
	if a.key == nil {
		a.key = ecKey()
	}
	if a.serial == 0 {
		serials++
		a.serial = serials
	}
	if a.to == 0 {
		a.to = 24 * time.Hour
	}
	if a.from == 0 {
		a.from = -time.Hour
	}
	if a.usage == nil {
		a.usage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: a.cn, Organization: []string{"judge"}},
		NotBefore: time.Now().Add(a.from), NotAfter: time.Now().Add(a.to),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: a.usage,
		BasicConstraintsValid: true, IsCA: a.isCA, DNSNames: a.hosts,
	}
	if a.isCA {
		t.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		if a.by == nil {
			t.ExtKeyUsage = nil
		}
	}
	for _, ip := range a.ips {
		t.IPAddresses = append(t.IPAddresses, net.ParseIP(ip))
	}
	parent, signer := t, a.key
	if a.by != nil {
		parent, signer = a.by.cert, a.by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, a.key.Public(), signer)
	fail(err)
	cert, err := x509.ParseCertificate(der)
	fail(err)
	return &issued{cert: cert, key: a.key}
}

// old is the certificate as it would be in version 1, which has no extensions: what "openssl x509 -req" makes when it is told of none.
func old(a ask) *issued {
	i := issue(a)
	signer := i.key
	if a.by != nil {
		signer = a.by.key
	}
	algorithm := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}} // ECDSA with SHA-256
	type validity struct{ From, To time.Time }
	body, err := asn1.Marshal(struct {
		Serial    *big.Int
		Algorithm pkix.AlgorithmIdentifier
		Issuer    asn1.RawValue
		Validity  validity
		Subject   asn1.RawValue
		Key       asn1.RawValue
	}{i.cert.SerialNumber, algorithm, asn1.RawValue{FullBytes: i.cert.RawIssuer}, validity{i.cert.NotBefore.UTC(), i.cert.NotAfter.UTC()},
		asn1.RawValue{FullBytes: i.cert.RawSubject}, asn1.RawValue{FullBytes: i.cert.RawSubjectPublicKeyInfo}})
	fail(err)
	digest := sha256.Sum256(body)
	signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	fail(err)
	der, err := asn1.Marshal(struct {
		Body      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: body}, algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	fail(err)
	cert, err := x509.ParseCertificate(der)
	fail(err)
	return &issued{cert: cert, key: i.key}
}

func authority(cn string) *issued { return issue(ask{cn: cn, isCA: true}) }

// serverOf is a certificate for a server on loopback.
func serverOf(ca *issued, key crypto.Signer) *issued {
	return issue(ask{cn: "server", by: ca, hosts: []string{"localhost"}, ips: []string{"127.0.0.1"}, key: key})
}

func (i *issued) certPEM() []byte {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})
	for _, c := range i.chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// keyPEM writes the key in the older form of its kind (PKCS#1, SEC1), or in PKCS#8.
func (i *issued) keyPEM(pkcs8 bool) []byte {
	if !pkcs8 {
		switch key := i.key.(type) {
		case *rsa.PrivateKey:
			return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
		case *ecdsa.PrivateKey:
			der, err := x509.MarshalECPrivateKey(key)
			fail(err)
			return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	fail(err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// forClient is the certificate as a client of Go shows it.
func (i *issued) forClient() *tls.Certificate {
	c := &tls.Certificate{PrivateKey: i.key, Certificate: [][]byte{i.cert.Raw}}
	for _, behind := range i.chain {
		c.Certificate = append(c.Certificate, behind.Raw)
	}
	return c
}

func crlOf(ca *issued, revoked ...*issued) []byte {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, r := range revoked {
		entry := x509.RevocationListEntry{SerialNumber: r.cert.SerialNumber, RevocationTime: time.Now()}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, entry)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	fail(err)
	return der
}

// folder is where the files of one case lie.
type folder string

func newFolder(dir, name string) folder {
	f := folder(filepath.Join(dir, name))
	fail(os.MkdirAll(string(f), 0o700))
	return f
}

// put writes a file as a whole, in the place of the one that was there.
func (f folder) put(name string, bytes []byte) string {
	path := filepath.Join(string(f), name)
	fail(os.WriteFile(path+".new", bytes, 0o600))
	fail(os.Rename(path+".new", path))
	return path
}
