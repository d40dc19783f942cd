package com.example.service;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.security.core.annotation.AuthenticationPrincipal;
import org.springframework.security.oauth2.jwt.Jwt;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** A service as Spring Boot makes it of one property, the issuer's URI. */
@SpringBootApplication
@RestController
public class Service {
    @GetMapping("/")
    String hello(@AuthenticationPrincipal Jwt token) {
        return "hello " + token.getSubject();
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Service.class, arguments);
    }
}
