/* Resolves a name as the C library it is built with does; 0 if it has an address. */
#include <netdb.h>
#include <stddef.h>

int main(int argc, char **argv) {
    struct addrinfo *found = NULL;
    struct addrinfo hints = {.ai_family = 2 /* AF_INET */};
    return argc != 2 || getaddrinfo(argv[1], NULL, &hints, &found) != 0;
}
