import java.io.InputStream;
import java.security.cert.X509Certificate;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/** One request by Java's own TLS: HOST PORT PATH. Prints the status line, and then keeps the connection. */
class Client {
    public static void main(String[] arguments) throws Exception {
        TrustManager trusting = new X509TrustManager() {
            public void checkClientTrusted(X509Certificate[] chain, String kind) {}

            public void checkServerTrusted(X509Certificate[] chain, String kind) {}

            public X509Certificate[] getAcceptedIssuers() {
                return new X509Certificate[0];
            }
        };
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {trusting}, null);
        SSLSocket socket =
                (SSLSocket) context.getSocketFactory().createSocket(arguments[0], Integer.parseInt(arguments[1]));
        socket.getOutputStream().write(("GET " + arguments[2] + " HTTP/1.1\r\nHost: x\r\n\r\n").getBytes());
        InputStream input = socket.getInputStream();
        StringBuilder line = new StringBuilder();
        for (int next = input.read(); next != '\r'; next = input.read()) {
            line.append((char) next);
        }
        System.out.println(line);
        Thread.sleep(Long.MAX_VALUE);
    }
}
