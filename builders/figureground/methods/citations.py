"""Publications that datasets ask their users to cite, as BibTeX."""

from __future__ import annotations

D3S = """@article{kattakinda2022d3s,
  title = {Invariant Learning via Diffusion Dreamed Distribution Shifts},
  author = {Kattakinda, Priyatham and Levine, Alexander and Feizi, Soheil},
  journal = {arXiv preprint arXiv:2211.10370},
  year = {2022}
}"""

LATENT_DIFFUSION = """@inproceedings{rombach2022latent,
  title = {High-Resolution Image Synthesis with Latent Diffusion Models},
  author = {Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Bj{\\"o}rn},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022}
}"""

SDEDIT = """@inproceedings{meng2022sdedit,
  title = {{SDEdit}: Guided Image Synthesis and Editing with Stochastic Differential Equations},
  author = {Meng, Chenlin and He, Yutong and Song, Yang and Song, Jiaming and Wu, Jiajun and Zhu, Jun-Yan and
            Ermon, Stefano},
  booktitle = {International Conference on Learning Representations},
  year = {2022}
}"""

INSTRUCT_PIX2PIX = """@inproceedings{brooks2023instructpix2pix,
  title = {{InstructPix2Pix}: Learning to Follow Image Editing Instructions},
  author = {Brooks, Tim and Holynski, Aleksander and Efros, Alexei A.},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2023}
}"""

SPURIOUS = """@article{maungmaung2024spurious,
  title = {Fine-Tuning Text-To-Image Diffusion Models for Class-Wise Spurious Feature Generation},
  author = {MaungMaung, AprilPyone and Nguyen, Huy H. and Kiya, Hitoshi and Echizen, Isao},
  journal = {arXiv preprint arXiv:2402.08200},
  year = {2024}
}"""

SPURIOUS_IMAGENET = """@inproceedings{neuhaus2023spurious,
  title = {Spurious Features Everywhere - Large-Scale Detection of Harmful Spurious Features in {ImageNet}},
  author = {Neuhaus, Yannic and Augustin, Maximilian and Boreiko, Valentyn and Hein, Matthias},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2023}
}"""

DREAMBOOTH = """@inproceedings{ruiz2023dreambooth,
  title = {{DreamBooth}: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation},
  author = {Ruiz, Nataniel and Li, Yuanzhen and Jampani, Varun and Pritch, Yael and Rubinstein, Michael and
            Aberman, Kfir},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2023}
}"""

SCGS = """@article{li2024focusing,
  title = {Focusing Image Generation to Mitigate Spurious Correlations},
  author = {Li, Xuewei and Nie, Zhenzhen and Yu, Mei and Zhang, Zijian and Gao, Jie and Xu, Tianyi and Liu, Zhiqiang},
  journal = {arXiv preprint arXiv:2412.19457},
  year = {2024}
}"""

GRAD_CAM_PLUS_PLUS = """@inproceedings{chattopadhay2018gradcampp,
  title = {{Grad-CAM++}: Generalized Gradient-Based Visual Explanations for Deep Convolutional Networks},
  author = {Chattopadhay, Aditya and Sarkar, Anirban and Howlader, Prantik and Balasubramanian, Vineeth N.},
  booktitle = {IEEE Winter Conference on Applications of Computer Vision},
  year = {2018}
}"""

DDB = """@inproceedings{parast2025ddb,
  title = {{DDB}: Diffusion Driven Balancing to Address Spurious Correlations},
  author = {Yazdan Parast, Aryan and Azam, Basim and Akhtar, Naveed},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2025}
}"""

TEXTUAL_INVERSION = """@article{gal2022image,
  title = {An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion},
  author = {Gal, Rinon and Alaluf, Yuval and Atzmon, Yuval and Patashnik, Or and Bermano, Amit H. and
            Chechik, Gal and Cohen-Or, Daniel},
  journal = {arXiv preprint arXiv:2208.01618},
  year = {2022}
}"""
