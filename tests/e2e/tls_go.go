// HTTPS by Go's crypto/tls: tls_go serve CERTIFICATE KEY | get ADDRESS PATH COUNT. HTTP/1.1 only.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
)

func serve(certificate, key string) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	handler := func(writer http.ResponseWriter, request *http.Request) {
		body := "ok\n"
		if rest, big := strings.CutPrefix(request.URL.Path, "/big/"); big {
			size, _ := strconv.Atoi(strings.SplitN(rest, "/", 2)[0])
			body = strings.Repeat("x", size)
		}
		writer.Header().Set("Content-Length", strconv.Itoa(len(body)))
		io.WriteString(writer, body)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	http.Serve(tls.NewListener(listener, config), http.HandlerFunc(handler))
}

func get(address, path string, count int) {
	// Setting TLSNextProto keeps HTTP/2 out.
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		TLSNextProto:    map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	client := &http.Client{Transport: transport}
	for number := 0; number < count; number++ {
		response, err := client.Get(fmt.Sprintf("https://%s%s%d", address, path, number))
		if err != nil {
			panic(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		fmt.Println(response.StatusCode)
	}
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2], os.Args[3])
		return
	}
	count, _ := strconv.Atoi(os.Args[4])
	get(os.Args[2], os.Args[3], count)
}
