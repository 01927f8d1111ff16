/* Sends one Ethernet frame exactly as it is written: frame DEVICE HEX. What a hostile guest can do with its interface. */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	unsigned char frame[1514];
	unsigned int byte;
	size_t len = 0;
	struct sockaddr_ll to = { .sll_family = AF_PACKET };
	int s;

	if (argc != 3 || strlen(argv[2]) % 2) {
		fputs("usage: frame DEVICE HEX\n", stderr);
		return 2;
	}
	for (const char *hex = argv[2]; *hex; hex += 2) {
		if (len == sizeof(frame) || sscanf(hex, "%2x", &byte) != 1) {
			fputs("frame: too long, or not hexadecimal\n", stderr);
			return 2;
		}
		frame[len++] = byte;
	}
	/* A card pads short frames; netfront does not. */
	while (len < 60)
		frame[len++] = 0;
	to.sll_ifindex = if_nametoindex(argv[1]);
	s = socket(AF_PACKET, SOCK_RAW, 0);
	if (s < 0 || !to.sll_ifindex || sendto(s, frame, len, 0, (struct sockaddr *)&to, sizeof(to)) < 0) {
		perror("frame");
		return 1;
	}
	return 0;
}
