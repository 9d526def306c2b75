// SPDX-License-Identifier: Apache-2.0
// Makes one request: Client.java LIBRARY METHOD URL BODY-SIZE [NAME=VALUE...]

import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

class Client {
    public static void main(String[] args) throws Exception {
        String method = args[1];
        URI url = URI.create(args[2]);
        byte[] body = "q".repeat(Integer.parseInt(args[3])).getBytes();
        if (args[0].equals("HttpClient")) {
            HttpRequest.Builder request = HttpRequest.newBuilder(url).method(method,
                body.length > 0 ? HttpRequest.BodyPublishers.ofByteArray(body) : HttpRequest.BodyPublishers.noBody());
            for (int i = 4; i < args.length; i++) {
                String[] pair = args[i].split("=", 2);
                request.header(pair[0], pair[1]);
            }
            HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
            client.send(request.build(), HttpResponse.BodyHandlers.discarding());
        } else {
            HttpURLConnection connection = (HttpURLConnection) url.toURL().openConnection();
            connection.setRequestMethod(method);
            for (int i = 4; i < args.length; i++) {
                String[] pair = args[i].split("=", 2);
                connection.setRequestProperty(pair[0], pair[1]);
            }
            if (body.length > 0) {
                connection.setDoOutput(true);
                connection.setChunkedStreamingMode(0);
                connection.getOutputStream().write(body);
            }
            connection.getInputStream().readAllBytes();
        }
    }
}
