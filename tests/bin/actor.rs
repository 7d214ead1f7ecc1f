//! The tests' own clients and servers as a program: `actor NAME key=value …`.

fn main() {
    if !spantap_tests::actors::run(std::env::args().skip(1)) {
        eprintln!(
            "usage: actor client|dns|hog|otlp_sender|otlp_sink|server|transcript|udp_client|udp_server key=value …"
        );
        std::process::exit(2);
    }
}
