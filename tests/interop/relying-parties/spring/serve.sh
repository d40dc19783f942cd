#!/usr/bin/env bash
# Serves the relying party with Spring Boot at PORT.
keytool -importcert -noprompt -alias issuer -file "$CA" -keystore "$FOLDER/authorities" -storepass changeit >/dev/null 2>&1
export SERVER_PORT=$PORT SERVER_ADDRESS=127.0.0.1
folder=target/interop/relying-parties/spring
# Less to start for a process that lives minutes.
exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Djavax.net.ssl.trustStore=$FOLDER/authorities" -Djavax.net.ssl.trustStorePassword=changeit \
    -cp "$folder/classes:$folder/lib/*" com.example.login.Application
