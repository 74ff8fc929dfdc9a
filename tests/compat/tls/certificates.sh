# An authority and certificates that it has signed, for servers on loopback and for clients; sourced by other scripts.

# certificates FOLDER NAME...: makes FOLDER with ca.pem, and NAME.pem and NAME-key.pem for each name; prints what made them,
# which is cfssl where it is installed and openssl elsewhere.
certificates() {
  local folder=$1 maker=openssl
  mkdir "$folder"
  ! command -v cfssl cfssljson >/dev/null || maker=cfssl
  (cd "$folder" && "${maker}_certificates" "${@:2}") >"$folder/log" 2>&1 || die "certificates: $(tail -3 "$folder/log")"
  echo "$maker"
}

cfssl_certificates() {
  local name key='"key":{"algo":"ecdsa","size":256}'
  echo "{\"CN\":\"authority\",$key}" | cfssl gencert -initca - | cfssljson -bare ca
  echo '{"signing":{"default":{"expiry":"48h","usages":["digital signature","server auth","client auth"]}}}' >signing.json
  for name in "$@"; do
    echo "{\"CN\":\"$name\",\"hosts\":[\"localhost\",\"127.0.0.1\"],$key}" |
      cfssl gencert -ca ca.pem -ca-key ca-key.pem -config signing.json - | cfssljson -bare "$name"
  done
}

openssl_certificates() {
  local name curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  openssl req -x509 "${curve[@]}" -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem
  for name in "$@"; do
    openssl req "${curve[@]}" -subj "/CN=$name" -keyout "$name-key.pem" -out "$name.csr"
    openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -out "$name.pem" \
      -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n')
  done
}
