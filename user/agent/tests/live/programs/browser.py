"""Asks https://NAME/ at ADDRESS:PORT as a Chrome does whose hello has a post-quantum key share; prints status and body,
or what it makes of a refusal. Arguments: NAME ADDRESS PORT CA_FILE."""

import sys

from curl_cffi import CurlOpt, requests

name, address, port, ca = sys.argv[1:]
# It asks for the name's HTTPS record whatever it was told: nobody is to answer, at once.
options = {CurlOpt.RESOLVE: [f"{name}:{port}:{address}"], CurlOpt.DNS_SERVERS: "127.0.0.1"}
with requests.Session(impersonate="chrome131", verify=ca, curl_options=options, timeout=10) as session:
    try:
        answer = session.get(f"https://{name}:{port}/")
        print(answer.status_code, answer.text, end="")
    except requests.exceptions.RequestException as refusal:
        print(refusal)
