//! A NATS server that has stopped to read: what is sent to it piles up.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Its URL. It accepts connections for as long as the test runs, greets, and then reads nothing more.
pub async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let info =
                    r#"INFO {"server_id":"frozen","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576}"#;
                stream
                    .write_all(format!("{info}\r\n").as_bytes())
                    .await
                    .expect("a greeting");
                let mut read = Vec::new();
                while !read.windows(4).any(|bytes| bytes == b"PING") {
                    let mut some = [0; 512];
                    let count = stream.read(&mut some).await.expect("a client");
                    read.extend_from_slice(&some[..count]);
                }
                stream.write_all(b"PONG\r\n").await.expect("a client");
                tokio::time::sleep(Duration::from_secs(600)).await;
            });
        }
    });
    url
}
