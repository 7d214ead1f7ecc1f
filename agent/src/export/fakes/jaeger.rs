//! Jaeger's collector by gRPC.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use tonic::{Code, Status};

use super::{Answer, State};

/// Jaeger's collector. Answers as for OTLP, except that it knows no partial success.
#[derive(Clone)]
pub(super) struct PostSpans(pub Arc<State>);

impl tonic::server::NamedService for PostSpans {
    const NAME: &'static str = "jaeger.api_v2.CollectorService";
}

impl tower::Service<Request<tonic::body::Body>> for PostSpans {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let state = Arc::clone(&self.0);
        Box::pin(async move {
            let mut headers = request.headers().clone();
            headers.insert("x-path", request.uri().path().parse().unwrap());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            // Without the five bytes in front of a message that is not compressed.
            let status = match state.receive(headers, body.slice(5..)) {
                Answer::Grpc { code, .. } => Status::new(code, "as the test says"),
                Answer::Says { code, message } => Status::new(code, message),
                _ => Status::new(Code::Ok, ""),
            };
            let mut trailers = http::HeaderMap::new();
            status.add_header(&mut trailers).unwrap();
            let trailers = async move { Some(Ok(trailers)) };
            let empty = Full::new(Bytes::from_static(&[0; 5])).map_err(|never| match never {});
            let mut response = Response::new(tonic::body::Body::new(empty.with_trailers(trailers)));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            Ok(response)
        })
    }
}
