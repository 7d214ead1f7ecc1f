// A server with TLS in front of one without: node_tls_proxy CERTIFICATE KEY PORT. Prints the port that it listens on. Each request
// has a connection of its own to the server behind.
const fs = require("fs");
const http = require("http");
const https = require("https");

const [certificate, key, port] = process.argv.slice(1);
const options = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
const server = https.createServer(options, (request, response) => {
  const there = { host: "127.0.0.1", port, path: request.url, agent: false };
  http.get(there, (answer) => {
    response.writeHead(answer.statusCode, { "content-length": answer.headers["content-length"] });
    answer.pipe(response);
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
